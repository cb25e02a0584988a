"""The Lua that replaces rows in Redis only by newer ones, made for one view's list of columns."""

from collections.abc import Sequence

# Versions are compared as text, which Redis does by locale: they are digits only, all of one length, and so safe.
# The client sends a row once, packed; Feast's own fields are made of it here, which spares it 60 arguments a row.
# What is the same in both packed rows is the same in Feast's fields, which are only ever made of them: it stays as it is.
_REPLACE = """
local names = {{ {names} }}
local tags = {{ {tags} }}
local char, floor, sub = string.char, math.floor, string.sub
local function varint(number)
  local out = ''
  if number >= 0 then
    while number > 127 do
      out = out .. char(number % 128 + 128)
      number = floor(number / 128)
    end
    return out .. char(number)
  end
  number = number + 34359738368
  for _ = 1, 5 do
    out = out .. char(number % 128 + 128)
    number = floor(number / 128)
  end
  return out .. '\\255\\255\\255\\255\\1'
end
local function replace(key, version, time, row)
  local held = redis.call('HMGET', key, {version}, {packed})
  if held[1] and held[1] >= version then return 0 end
  local before = held[2] or ''
  if #before ~= #row or sub(before, 1, 4) ~= sub(row, 1, 4) then before = '' end
  local set = {{ {version}, version, {time}, time, {packed}, row }}
  local gone = {{}}
  for at = 1, #names do
    local from = {header} + at * 8 - 7
    local raw = sub(row, from, from + 7)
    if raw ~= sub(before, from, from + 7) then
      local value = struct.unpack('<d', raw)
      if value ~= value then
        gone[#gone + 1] = names[at]
      else
        local tag = tags[at]
        set[#set + 1] = names[at]
        if tag == 41 then -- a double: as it lies in the packed row
          set[#set + 1] = char(tag) .. raw
        elseif tag == 64 then -- an instant: Feast counts seconds
          set[#set + 1] = char(tag) .. varint(floor(value / 1000000))
        else
          set[#set + 1] = char(tag) .. varint(value)
        end
      end
    end
  end
  redis.call('HSET', key, unpack(set))
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  return 1
end
local written = 0
for at = 1, #KEYS do
  written = written + replace(KEYS[at], ARGV[3 * at - 2], ARGV[3 * at - 1], ARGV[3 * at])
end
return written
"""


def replace_if_newer(fields: tuple[str, str, str], columns: Sequence[tuple[bytes, int]], header: int) -> str:
    """The script of a view: `fields` for version, time and packed row; of each column its field and its Value tag.

    It takes any number of keys, and for each its version, event time and packed row; it returns how many it replaced.

    `header` is the length of what a packed row begins with. Negative whole numbers go down to −2^35, which as seconds
    is the year 881.
    """
    version, time, packed = (_literal(field.encode()) for field in fields)
    return _REPLACE.format(
        version=version,
        time=time,
        packed=packed,
        names=", ".join(_literal(name) for name, _ in columns),
        tags=", ".join(str(tag) for _, tag in columns),
        header=header,
    )


def _literal(text: bytes) -> str:
    return "'" + "".join(f"\\{byte:03d}" for byte in text) + "'"
