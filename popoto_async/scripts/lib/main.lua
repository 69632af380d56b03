-- purpose: run the operations of a call in order, each with an outcome of its own
-- defines: failure, run_operation
-- include: lib/writes.lua

-- What a raised error says (a table on newer servers, a text on older ones), and the key to blame.
local function failure(reason)
  local message = type(reason) == 'table' and (reason.err or reason[1]) or tostring(reason)
  local key = blamed
  blamed = false
  return {message:find('WRONGTYPE', 1, true) and 'corrupt' or 'error', message, key}
end

local function run_operation(call, op, model)
  undo = {}
  local done, outcome = pcall(operations[op.op], call, op, model)
  if done then
    return outcome
  end
  rollback()
  return failure(outcome)
end
