"""The Lua that replaces a row in Redis only by a newer one, made for one view's list of columns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feature_repo.stores.redis_rows import Layout

# Versions are compared as text, which Redis does by locale: they are digits only, all of one length, and so safe.
# The client sends a row once, packed; Feast's own fields are made of it here, which spares it 60 arguments a row.
_REPLACE = """
local held = redis.call('HGET', KEYS[1], {version})
if held and held >= ARGV[1] then return 0 end
local names = {{ {names} }}
local tags = {{ {tags} }}
local row = ARGV[3]
local char, floor = string.char, math.floor
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
local set = {{ {version}, ARGV[1], {time}, ARGV[2], {packed}, row }}
local gone = {{}}
for at = 1, #names do
  local from = {header} + at * 8 - 7
  local raw = string.sub(row, from, from + 7)
  local value = struct.unpack('<d', raw)
  if value ~= value then
    gone[#gone + 1] = names[at]
  else
    local tag = tags[at]
    set[#set + 1] = names[at]
    if tag == {float_tag} then
      set[#set + 1] = char(tag) .. raw
    elseif tag == {instant_tag} then
      set[#set + 1] = char(tag) .. varint(floor(value / 1000000))
    else
      set[#set + 1] = char(tag) .. varint(value)
    end
  end
end
redis.call('HSET', KEYS[1], unpack(set))
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
return 1
"""


def replace_if_newer(layout: "Layout", tags: Mapping[str, int], header: int) -> str:
    """The script of a view. Negative whole numbers go down to −2^35, which year 881 as seconds still is."""
    return _REPLACE.format(
        version=_literal(layout.version_field.encode()),
        time=_literal(layout.time_field.encode()),
        packed=_literal(layout.packed_field.encode()),
        names=", ".join(_literal(name) for name in layout.value_fields),
        tags=", ".join(str(tags[kind]) for _, kind in layout.columns),
        float_tag=tags["float64"],
        instant_tag=tags["instant"],
        header=header,
    )


def _literal(text: bytes) -> str:
    return "'" + "".join(f"\\{byte:03d}" for byte in text) + "'"
