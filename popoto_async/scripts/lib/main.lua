-- purpose: the call that a header describes, and its operations carried out in order, each with an outcome of its own
-- defines: call, reply, run_operation
-- include: lib/writes.lua

local call = cmsgpack.unpack(ARGV[1])

-- The server's time, in seconds and µs, then an outcome for each operation.
local reply = redis.call('TIME')
call.micros = reply[1] * 1000000 + reply[2]
call.now = math.floor(call.micros / 1000)

local function run_operation(op, model)
  undo, blamed = {}, false
  local done, outcome = pcall(operations[op.op], call, op, model)
  if not done then
    -- include: lib/failure.lua
    rollback()
    return failure(outcome)
  end
  return outcome
end
