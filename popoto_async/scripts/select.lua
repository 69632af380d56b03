-- purpose: find records by a condition, in an order, a page at a time, without writing anything
-- keys: the records, the index keys named by op.where and op.order, $Class
-- args: the operation as docs/architecture.md has it; values of stored conditions and of op.after are at op.at
-- reply: ok keys texts examined | more keys texts examined cursor | ok n examined | more n examined cursor | unbuilt

local later = {}

-- What every select needs: the walk along an index or the class, in the order asked for.
-- include: lib/built.lua
-- include: lib/query.lua
-- include: lib/choice.lua
-- include: lib/scan.lua
-- include: lib/collect.lua

-- The conditions that candidates have to pass besides, and candidates that come in another order than the one asked for.
-- later: lib/driver.lua lib/filter.lua lib/together.lua lib/sources.lua lib/order.lua lib/sorted.lua
-- Kinds of conditions and orders that few queries have.
-- later: lib/rare_filters.lua lib/rare_sizes.lua lib/owners.lua lib/comparisons.lua lib/exact.lua lib/geo.lua lib/rings.lua
-- later: lib/texts.lua lib/values.lua lib/via.lua lib/targets.lua
-- Queries that go on where others ended, that are counts, that say what they did, or that show lists.
-- later: lib/resume.lua lib/ranks.lua lib/apart.lua lib/count.lua lib/explain.lua lib/lists.lua

local function collector(query, plan)
  if query.op.mode == 'count' then
    return later.counted(query, plan)
  elseif plan.sorted then
    return later.sorted(query, plan)
  end
  return collect.rows(query, plan)
end

local function found(op, query)
  local counted = op.mode == 'count' and not op.cursor and later.count_by_index(query)
  if counted then
    return {'ok', math.max(0, math.min(counted - query.offset, query.limit)), 0}
  elseif query.limit == 0 then
    return op.mode == 'count' and {'ok', 0, 0} or {'ok', {}, {}, 0}
  end
  local plan = op.cursor and later.resume.plan(op.cursor) or choice.plan(query)
  local collected = collector(query, plan)
  scan(query, plan, collected)
  if plan.at and query.spare then
    plan = later.apart.instead(query)
    collected = collector(query, plan)
    scan(query, plan, collected)
  end
  query.plan = plan
  return collected.reply(plan.at and later.resume.cursor(query, plan))
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
  tree.call = call
  return op.explain and later.explain(op, model, answer) or (answer(op, model))
end
