-- purpose: the server's clock, which a call asks once, if anything of it depends on the time
-- defines: micros_of, now_of, deadline_in
-- include: lib/commands.lua

-- In µs of 1970.
local function micros_of(call)
  if not call.micros then
    local time = redis.call('TIME')
    call.micros = time[1] * 1000000 + time[2]
  end
  return call.micros
end

-- In ms.
local function now_of(call)
  call.now = call.now or math.floor(micros_of(call) / 1000)
  return call.now
end

-- The deadline of what is to last so many ms, as a text.
local function deadline_in(call, ttl)
  return string.format('%.0f', now_of(call) + ttl)
end
