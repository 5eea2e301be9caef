-- wrk script: each request consumes a batch; every thread has a consumer of its own, and takes the next one when
-- its consumer has seen the whole backlog.
--
--   wrk -t 2 -c 4 -d 6s -s bench/consume.lua http://127.0.0.1:8081/topic/bench/consume -- NAME REQUESTS BATCH
--
-- NAME makes the consumers' names unique, REQUESTS is how many batches of BATCH messages the backlog has. When it is
-- done, one line of JSON follows.

local counter = 0
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("author", threads)
end

function init(arguments)
  name, requests, batch = arguments[1], tonumber(arguments[2]), arguments[3]
end

function request()
  local round = math.floor(counter / requests)
  counter = counter + 1
  return wrk.format("GET", string.format("%s?consumerID=%s-%d-%d&batch=%s", wrk.path, name, author, round, batch))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.3f, "p50_ms": %.2f, "p99_ms": %.2f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
