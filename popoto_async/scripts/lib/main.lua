-- purpose: the call that a header describes, and its operations carried out in order, each with an outcome of its own
-- defines: call, reply, DONE, model_of, run_operation
-- include: lib/writes.lua

local call = cmsgpack.unpack(ARGV[1])

-- The server's time, in seconds and µs, then an outcome for each operation.
local reply = redis.call('TIME')
call.micros = reply[1] * 1000000 + reply[2]
call.now = math.floor(call.micros / 1000)

-- The outcome of most writes, which have nothing to tell.
local DONE = {'ok'}

-- The model of an operation: the first one, unless it says another.
local function model_of(op)
  return call.models[op.m or 1]
end

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
