-- purpose: the call that a header describes
-- defines: models, ops, lane, seq, resend, micros, reply, call
-- include: lib/undo.lua

local models, ops, guards, lane, seq, resend = cmsgpack.unpack(ARGV[1])

-- The server's time in µs, then an outcome for each operation.
local reply = redis.call('TIME')
local micros = reply[1] * 1000000 + reply[2]
reply[1], reply[2] = micros, nil

-- What operations have to know of the call.
local call = {models = models, guards = guards, micros = micros, now = math.floor(micros / 1000)}
