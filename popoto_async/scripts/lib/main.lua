-- purpose: the call that a header describes, and its operations carried out in order, each with an outcome of its own
-- defines: call, reply, run_operation, answer_each
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

-- Has each operation answered, in their order: `answer` takes it, its model and its number. One that is the same for
-- several records names them in `each`; its values are `width` for each of them.
local function answer_each(answer)
  for i = 1, #call.ops do
    local op = call.ops[i]
    local model, each = call.models[op.m or 1], op.each
    op.at = op.at or 2
    for j = 1, each and #each or 1 do
      if each then
        op.key = each[j]
      end
      reply[#reply + 1] = answer(op, model, #reply - 1)
      op.at = op.at + (each and op.width or 0)
    end
  end
end
