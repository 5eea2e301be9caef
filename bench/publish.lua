-- wrk script: each request publishes a message of its own.
--
--   wrk -t 2 -c 64 -d 6s -s bench/publish.lua http://127.0.0.1:8081/topic/bench/publish -- [BYTES]
--
-- BYTES is the length of the message (default 256). When it is done, one line of JSON follows.

local counter = 0
local threads = 0
local bytes = 256

function setup(thread)
  threads = threads + 1
  thread:set("author", threads)
end

function init(arguments)
  bytes = tonumber(arguments[1] or "256")
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  counter = counter + 1
  local name = string.format("%d-%d-", author, counter)
  return wrk.format(nil, nil, nil, '{"message":"' .. name .. string.rep("x", bytes - #name) .. '"}')
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.3f, "p50_ms": %.2f, "p99_ms": %.2f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
