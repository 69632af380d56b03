-- purpose: find records by a condition, in an order, a page at a time, without writing anything
-- keys: the records, the index keys named by op.where and op.order, $Class
-- args: the operation as docs/architecture.md has it; values of stored conditions and of op.after are at op.at
-- reply: ok keys texts examined | more keys texts examined cursor | ok n examined | more n examined cursor | unbuilt
-- include: lib/built.lua
-- include: lib/query.lua
-- include: lib/count.lua
-- include: lib/choice.lua
-- include: lib/collect.lua
-- include: lib/scan.lua
-- include: lib/explain.lua

local function found(op, query)
  local counted = op.mode == 'count' and not op.cursor and count_by_index(query)
  if counted then
    return {'ok', math.max(0, math.min(counted - query.offset, query.limit)), 0}
  elseif query.limit == 0 then
    return op.mode == 'count' and {'ok', 0, 0} or {'ok', {}, {}, 0}
  end
  local plan = op.cursor and choice.resumed(op.cursor) or choice.plan(query)
  local collected = collectors[op.mode](query, plan)
  scan(query, plan, collected)
  if plan.at and query.spare then
    plan = choice.instead(query)
    collected = collectors[op.mode](query, plan)
    scan(query, plan, collected)
  end
  query.plan = plan
  return collected.reply(plan.at and choice.cursor(query, plan))
end

-- The reply, and the query if it was one that could be asked.
local function answer(op, model)
  local missing = op.relies and not_built(op.relies)
  if missing then
    return missing
  end
  local query = describe(op, model)
  return found(op, query), query
end

operations.select = function(call, op, model)
  tree.now = call.now
  return op.explain and explain(op, model, answer) or (answer(op, model))
end
