"""The Lua that replaces rows in Redis only by newer ones, made for one view's list of columns."""

from collections.abc import Sequence
from hashlib import sha1
from typing import Final

PRINT_BYTES: Final = 6
BUCKETS: Final = 16_384
"""Fields of an index, at most: few enough to cost little where rows are few, many enough that a field of millions is short."""

FINGERPRINTS: Final = f"""
local function place(key)
  local hex = redis.sha1hex(key)
  return tonumber(string.sub(hex, 1, 4), 16) % {BUCKETS}, struct.pack('>I6', tonumber(string.sub(hex, 5, 16), 16))
end
local function has(bucket, print)
  local at = string.find(bucket, print, 1, true)
  while at and at % 6 ~= 1 do at = string.find(bucket, print, at + 1, true) end
  return at
end
"""
"""Where a row's Redis key stands in its view's index: a field, and six bytes among those of the field."""
NOTE: Final = (
    FINGERPRINTS
    + """
local function note(index, key)
  local bucket, print = place(key)
  local held = redis.call('HGET', index, bucket) or ''
  if has(held, print) then return end
  redis.call('HSET', index, bucket, held .. print)
  redis.call('HINCRBY', index, 'rows', 1)
end
"""
)
NOTE_ALL: Final = NOTE + "for at = 1, #ARGV do note(KEYS[1], ARGV[at]) end return #ARGV"
"""The keys in `ARGV` into the index in `KEYS[1]`: for a cluster, where they lie on other servers."""

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
local written, first = 0, tonumber(ARGV[1])
for at = 1, #KEYS - first do
  local key = KEYS[first + at]
  if first == 1 then note(KEYS[1], key) end
  written = written + replace(key, ARGV[3 * at - 1], ARGV[3 * at], ARGV[3 * at + 1])
end
return written
"""


def place_of(redis_key: bytes) -> tuple[int, bytes]:
    """What `place` is in Lua: the field of a key in the index of its view, and its fingerprint there."""
    digest = sha1(redis_key, usedforsecurity=False).digest()
    return int.from_bytes(digest[:2], "big") % BUCKETS, digest[2 : 2 + PRINT_BYTES]


def has(bucket: bytes, fingerprint: bytes) -> bool:
    """What `has` is in Lua: whether a fingerprint is among those of a field."""
    return any(bucket[at : at + PRINT_BYTES] == fingerprint for at in range(0, len(bucket), PRINT_BYTES))


def replace_if_newer(fields: tuple[str, str, str], columns: Sequence[tuple[bytes, int]], header: int) -> str:
    """The script of a view: `fields` for version, time and packed row; of each column its field and its Value tag.

    It takes any number of keys, and for each its version, event time and packed row, after a 1 where the first key is
    the view's index, which notes them; it returns how many it replaced.

    `header` is the length of what a packed row begins with. Negative whole numbers go down to −2^35, which as seconds
    is the year 881.
    """
    version, time, packed = (_literal(field.encode()) for field in fields)
    return NOTE + _REPLACE.format(
        version=version,
        time=time,
        packed=packed,
        names=", ".join(_literal(name) for name, _ in columns),
        tags=", ".join(str(tag) for _, tag in columns),
        header=header,
    )


def _literal(text: bytes) -> str:
    return "'" + "".join(f"\\{byte:03d}" for byte in text) + "'"
