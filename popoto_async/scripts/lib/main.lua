-- purpose: the call that a header describes
-- defines: models, ops, lane, seq, resend, reply, call
-- include: lib/undo.lua

local models, ops, guards, lane, seq, resend, clock = cmsgpack.unpack(ARGV[1])

-- What operations have to know of the call.
local call = {models = models, guards = guards}

-- The server's time in µs, where it is asked for, then an outcome for each operation.
local reply = {false}
if clock then
  -- include: lib/clock.lua
  reply[1] = micros_of(call)
end
