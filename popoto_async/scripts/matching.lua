-- purpose: change a record if it satisfies a condition at that moment
-- keys: those of the change, and the index keys named by the condition
-- args: op.key; op.guard, number of the condition in call.guards; op.ops, the change, with an m of its own
-- reply: as the change | unmatched
-- include: lib/main.lua
-- include: lib/query.lua

-- Whether a condition keeps what it has looked up, which earlier operations of the call may have changed since.
local function remembers(node)
  if node.t == 'via' or node.t == 'claim' or node.alias or node.x then
    return true
  elseif node.t == 'not' then
    return remembers(node.n)
  end
  for _, part in ipairs((node.t == 'and' or node.t == 'or') and node.n or {}) do
    if remembers(part) then
      return true
    end
  end
  return false
end

-- The condition of a guard, which is packed in ARGV at its `at`, with its values after it.
local function condition(guard, model)
  if not guard.query or guard.remembers then
    guard.query = describe({where = cmsgpack.unpack(ARGV[guard.at]), at = guard.at + 1}, model)
    guard.remembers = remembers(guard.query.where)
  end
  return guard.query
end

operations.matching = function(call, op, model)
  local query, step = condition(call.guards[op.guard], model), op.ops[1]
  tree.call = call
  tree.at, tree.view = query.op.at, view_of(query.fields)
  if #later.filter(query.where, {op.key}, tree.view) == 0 then
    return {'unmatched'}
  end
  return operations[step.op](call, step, call.models[step.m or 1])
end
