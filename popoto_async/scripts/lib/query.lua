-- purpose: a select with all that is worked out once
-- defines: describe
-- include: lib/estimate.lua
-- include: lib/tree.lua
-- include: lib/view.lua

local BUDGET = 1500
-- In larger collections look-ups miss the processor's caches, so that less can be done in the same time: measured, six
-- tenths among a million records of what can be done among 8,000.
local CACHED, SLOWER = 8192, 0.1
-- What one look-up of a condition takes at most, in the units of a budget.
local DEAREST_LOOKUP = 2

-- What one call may spend.
local function budget_of(op, model)
  local budget, size = op.budget or BUDGET, estimate.all(model)
  if size <= CACHED then
    return budget
  end
  local doublings = math.log(size / CACHED) / math.log(2)
  return math.floor(budget / (1 + SLOWER * doublings))
end

-- What it takes at most to find out whether a candidate counts, and to sort it if it does.
local function dearest(op, where, orders)
  local look = COST.walk + DEAREST_LOOKUP * where.weight + (where.reads and COST.read or 0)
  if op.mode == 'count' then
    return look, 0
  end
  return look, COST.read + COST.sort_all + COST.probe * #orders
end

-- The operation with the terms of its conjunction, the orders that matter, and what may be read of records.
local function describe(op, model)
  tree.at, model.count = op.at, nil
  local where, fields = op.where or {t = 'all'}, {['$'] = true}
  tree.prepare(where, fields)
  local orders = op.order or {}
  orders = orders[2] and later.order.significant(orders) or orders[1] and orders or {{by = 'key'}}
  for _, by in ipairs(orders) do
    if by.f then
      fields[by.f] = true
    end
  end
  local columns = op.fields or {}
  columns[#columns + 1] = '$'
  tree.view = view_of(fields)
  local limit = op.limit and op.limit >= 0 and op.limit or math.huge
  local look, sort = dearest(op, where, orders)
  return {
    op = op, model = model, columns = columns, where = where, orders = orders, view = tree.view, fields = fields,
    terms = where.t == 'and' and where.n or where.t == 'all' and {} or {where},
    offset = op.offset or 0, limit = limit, want = (op.offset or 0) + limit,
    look = look, sort = sort, budget = budget_of(op, model), examined = 0, after = op.after and later.resume.after(op.after),
  }
end
