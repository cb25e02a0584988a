"""Lua that replaces rows in Redis by newer ones, generated for the columns of one view."""

from collections.abc import Sequence
from hashlib import sha1
from typing import Final

PRINT_BYTES: Final = 6
BUCKETS: Final = 16_384
"""The most fields of an index: cheap for few rows, and each field stays short with millions of rows."""

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
"""Maps a row's Redis key to its place in the view's index: a field, and a six-byte fingerprint within it."""
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
"""Adds the keys in `ARGV` to the index `KEYS[1]`; used on a cluster, where they are on other servers."""

# Redis compares text by locale; versions are digits of one length, which every locale orders alike.
# The client sends a row once, packed; the script derives Feast's fields from it, which saves 60 arguments per row.
# A value equal in both packed rows is equal in Feast's fields, which derive from them, and is not written again.
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
    """Return a key's field in its view's index and its fingerprint there, as `place` does in Lua."""
    digest = sha1(redis_key, usedforsecurity=False).digest()
    return int.from_bytes(digest[:2], "big") % BUCKETS, digest[2 : 2 + PRINT_BYTES]


def has(bucket: bytes, fingerprint: bytes) -> bool:
    """Whether a field contains a fingerprint, as `has` does in Lua."""
    return any(bucket[at : at + PRINT_BYTES] == fingerprint for at in range(0, len(bucket), PRINT_BYTES))


def replace_if_newer(fields: tuple[str, str, str], columns: Sequence[tuple[bytes, int]], header: int) -> str:
    """Generate the script of a view.

    `fields` are those of version, event time and packed row; `columns` the field and Value tag of each column; `header`
    the length of a packed row's header (bytes). The script's arguments are 1 if the first key is the view's index, to
    which the others are added, else 0; then version, event time and packed row of each key. It returns the number of
    rows replaced. Negative integers reach down to −2^35, which as seconds is the year 881.
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
