#!lua flags=allow-oom
-- Renew or give up one worker's lease on a namespace, and name all workers that hold one. Time is the store's.
--   KEYS[1] worker -> when its lease ends, in ms, as JSON
--   ARGV[1] the worker, ARGV[2] how long its lease lasts, in ms; 0 gives it up
-- Returns 1 if the worker held a lease before, else 0; then the workers.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local live = {}
for worker, ends in pairs(cjson.decode(redis.call('GET', KEYS[1]) or '{}')) do
  if ends > now then live[worker] = ends end
end
local held, lasts = live[ARGV[1]] and 1 or 0, tonumber(ARGV[2])
live[ARGV[1]] = lasts > 0 and now + lasts or nil
local names, last = {}, now + 1
for worker, ends in pairs(live) do
  names[#names + 1] = worker
  last = math.max(last, ends)
end
redis.call('SET', KEYS[1], cjson.encode(live), 'PX', last - now)
return {held, unpack(names)}
