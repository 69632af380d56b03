-- purpose: run the operations of a call in order, each with an outcome of its own
-- defines: begun, model_of, failure, run_operation
-- include: lib/writes.lua

-- The call that the header describes, with the server's time: as text in µs of 1970, and as numbers.
local function begun()
  local call, time = cmsgpack.unpack(ARGV[1]), redis.call('TIME')
  call.micros = time[1] * 1000000 + time[2]
  call.now = math.floor(call.micros / 1000)
  call.time = string.format('%d', call.micros)
  return call
end

-- The model of an operation: the first one, unless it says another.
local function model_of(call, op)
  return call.models[op.m or 1]
end

-- What a raised error says (a table on newer servers, a text on older ones), and the key to blame for a wrong type.
local function failure(reason)
  local message = type(reason) == 'table' and (reason.err or reason[1]) or tostring(reason)
  local corrupt = message:find('WRONGTYPE', 1, true)
  return {corrupt and 'corrupt' or 'error', message, corrupt and blamed}
end

local function run_operation(call, op, model)
  undo, blamed = {}, false
  local done, outcome = pcall(operations[op.op], call, op, model)
  if done then
    return outcome
  end
  rollback()
  return failure(outcome)
end
