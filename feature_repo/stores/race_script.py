"""Lua scripts of race cards: write a message once, however often it is sent; advance the head; read a race."""

from hashlib import sha1
from typing import Final

from velo.feature_repo.stores.redis_script import FINGERPRINTS

OFFER: Final = """
-- KEYS: race, index, events, head, waiting; ARGV: log generation, seq, field, record, race id, off (µs) or '', ttl (ms) or '',
-- horizon (µs), kind, known_at, 1 to announce, the reduced card that stays or '', known_at (µs) of a message that waits
-- for a card or '', the beginning of the fields of a market's source or '', how many minutes of them are kept
redis.replicate_commands()
local generation, seq = tonumber(ARGV[1]), tonumber(ARGV[2])
local held = tonumber(redis.call('HGET', KEYS[4], 'generation') or -1)
if held > generation then return 0 end
if held < generation then
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
  redis.call('HSET', KEYS[4], 'generation', generation, 'live', 0)
end
local changed = 0
if ARGV[7] ~= '' then
  if tonumber(redis.call('HGET', KEYS[1], 'generation') or -1) ~= generation then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'generation', generation)
  end
  if ARGV[12] ~= '' then redis.call('HSET', KEYS[1], 'c:' .. ARGV[2], ARGV[12]) end
  local field, place = ARGV[3], ARGV[3] .. '@'
  if seq > tonumber(redis.call('HGET', KEYS[1], place) or -1) then
    redis.call('HSET', KEYS[1], field, ARGV[4], place, seq)
    if seq > tonumber(redis.call('HGET', KEYS[1], 'seq') or -1) then redis.call('HSET', KEYS[1], 'seq', seq) end
    changed = 1
    if ARGV[14] ~= '' then
      local minutes, newest = {}, 0
      for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
        local minute = string.sub(name, 1, #ARGV[14]) == ARGV[14] and string.match(string.sub(name, #ARGV[14] + 1), '^%d+$')
        if minute then
          minutes[#minutes + 1] = tonumber(minute)
          newest = math.max(newest, tonumber(minute))
        end
      end
      local first, before = newest - tonumber(ARGV[15]), 0
      for _, minute in ipairs(minutes) do
        if minute < first then before = math.max(before, minute) end
      end
      for _, minute in ipairs(minutes) do
        if minute < before then
          local old = ARGV[14] .. string.format('%d', minute)
          redis.call('HDEL', KEYS[1], old, old .. '@')
        end
      end
    end
    if ARGV[6] ~= '' and (ARGV[9] == 'racecard' or redis.call('HEXISTS', KEYS[1], 'card') == 0) then
      redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
    end
  end
  if ARGV[6] ~= '' then
    redis.call('ZREM', KEYS[5], ARGV[5])
  elseif ARGV[13] ~= '' and redis.call('HEXISTS', KEYS[1], 'card') == 0 then
    redis.call('ZADD', KEYS[5], ARGV[13], ARGV[5])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. ARGV[8])
  if (changed == 1 and ARGV[6] ~= '') or tonumber(ARGV[7]) > redis.call('PTTL', KEYS[1]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[7])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[8])
end
if ARGV[11] == '1' then
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  if not last or tonumber(string.match(last[1], '^%d+')) < seq + 1 then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', '512', (seq + 1) .. '-0',
      'type', ARGV[9], 'race_id', ARGV[5], 'known_at', ARGV[10], 'record', ARGV[4])
  end
end
return changed
"""
"""Event ids are seq + 1, so a repeated event has the same id. A log of a later generation replaces everything."""

ADVANCE: Final = """
-- KEYS: index, events, head, waiting; ARGV: log generation, seq, known_at (µs), live
local generation = tonumber(ARGV[1])
local held = tonumber(redis.call('HGET', KEYS[3], 'generation') or -1)
if held > generation then return 0 end
if held < generation then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  redis.call('HSET', KEYS[3], 'generation', generation)
end
if tonumber(ARGV[2]) >= tonumber(redis.call('HGET', KEYS[3], 'seq') or -1) then
  redis.call('HSET', KEYS[3], 'seq', ARGV[2], 'known_us', ARGV[3])
end
redis.call('HSET', KEYS[3], 'live', ARGV[4])
return 1
"""

READ: Final = (
    FINGERPRINTS
    + """
-- KEYS: race, events, head, the index of each requested view, then feature hashes; ARGV: for each view its field and its
-- number of hashes
local call = redis.call
local out = call('HMGET', KEYS[3], 'generation', 'seq', 'known_us', 'live')
local race = call('HMGET', KEYS[1], 'generation', 'seq')
out[5], out[6] = race[1], race[2]
local views, fills, lost = #ARGV / 2, {}, {}
local at = 3 + views
for turn = 1, views do
  local index, field, gone = KEYS[3 + turn], ARGV[2 * turn - 1], false
  fills[turn] = call('HGET', index, 'fill') or ''
  for _ = 1, ARGV[2 * turn] do
    at = at + 1
    local row = call('HGET', KEYS[at], field)
    out[at - views + 5] = row
    if not row and not gone then
      local bucket, print = place(KEYS[at])
      gone = has(call('HGET', index, bucket) or '', print)
    end
  end
  if gone then lost[#lost + 1] = turn end
end
out[7], out[8] = table.concat(fills, ' '), table.concat(lost, ' ')
return out
"""
)
"""Reads in one atomic step: the head, the race's version, each view's fill, the views that lost a row, then the rows."""


def sha_of(script: str) -> str:
    """The SHA-1 by which EVALSHA calls a loaded script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
