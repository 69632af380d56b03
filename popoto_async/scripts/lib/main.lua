-- purpose: the call that a header describes, and its operations carried out in order, each with an outcome of its own
-- defines: models, ops, lane, seq, resend, micros, reply, call, run_operation
-- include: lib/undo.lua

local models, ops, guards, lane, seq, resend = cmsgpack.unpack(ARGV[1])

-- The server's time in µs, then an outcome for each operation.
local reply = redis.call('TIME')
local micros = reply[1] * 1000000 + reply[2]
reply[1], reply[2] = micros, nil

-- What operations have to know of the call.
local call = {models = models, guards = guards, micros = micros, now = math.floor(micros / 1000)}

local function run_operation(op, model)
  blamed = false
  for i = #undo, 1, -1 do
    undo[i] = nil
  end
  local done, outcome = pcall(operations[op.op], call, op, model)
  if not done then
    -- include: lib/failure.lua
    rollback()
    return failure(outcome)
  end
  return outcome
end
