#!lua flags=allow-oom
-- Replace a record if it is the expected one: the only way in which the rollout record and what a namespace says of itself change.
-- Also in a full store: a bad release must be taken back, and a record has at most 256 KiB. The first line needs Redis 7.
--   KEYS[1] the record
--   ARGV[1] expected record ('' = must be absent), ARGV[2] new record
-- Returns 1 when written, else the stored record ('' = absent).
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then
  return stored
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
