-- purpose: a select with all that is worked out once
-- defines: describe
-- include: lib/tree.lua
-- include: lib/targets.lua
-- include: lib/via.lua
-- include: lib/view.lua

local BUDGET = 1500
-- In larger collections look-ups miss the processor's caches, so that less can be done in the same time: measured, two
-- thirds among a million records of what can be done among 8,000.
local CACHED, SLOWER = 8192, 0.07
-- What one look-up of a condition takes at most, in the units of a budget.
local DEAREST_LOOKUP = 2

-- What one call may spend.
local function budget_of(op, model)
  local doublings = math.log(math.max(1, redis.call('ZCARD', model.class) / CACHED)) / math.log(2)
  return math.floor((op.budget or BUDGET) / (1 + SLOWER * doublings))
end

-- What it takes at most to find out whether a candidate counts, and to sort it if it does.
local function dearest(op, where, orders)
  local look = COST.walk + DEAREST_LOOKUP * where.weight + (where.reads and COST.read or 0)
  if op.mode == 'count' then
    return look, 0
  end
  return look, COST.read + COST.sort_all + COST.probe * #orders
end

-- Orders without those that can't matter any more.
local function significant(orders)
  local kept = {}
  for _, by in ipairs(orders or {}) do
    local first = kept[1]
    if by.by == 'key' then
      if not first or (by.desc or false) ~= (first.desc or false) then
        kept[#kept + 1] = by
      end
      return kept
    end
    kept[#kept + 1] = by
  end
  return #kept > 0 and kept or {{by = 'key'}}
end

-- The place after which records count, with its texts: {key, texts, scores}, by order, false where there is none.
local function place_of(after)
  if not after then
    return nil
  end
  local texts = {}
  for i, at in ipairs(after.at) do
    texts[i] = at and ARGV[tree.at + at]
  end
  return {key = after.key, texts = texts, scores = after.scores}
end

-- The operation with the terms of its conjunction, the orders that matter, and what may be read of records.
local function describe(op, model)
  tree.at = op.at
  local where, fields, names = op.where or {t = 'all'}, {['$'] = true}, {}
  tree.prepare(where, fields)
  local orders = significant(op.order)
  for _, by in ipairs(orders) do
    if by.f then
      fields[by.f] = true
    end
  end
  for name in pairs(fields) do
    names[#names + 1] = name
  end
  local columns = {unpack(op.fields or {})}
  columns[#columns + 1] = '$'
  local function view_anew()
    tree.at, tree.view = op.at, view_of(names)
    return tree.view
  end
  local limit = op.limit and op.limit >= 0 and op.limit or math.huge
  local look, sort = dearest(op, where, orders)
  return {
    op = op, model = model, columns = columns, where = where, orders = orders, view = view_anew(), view_anew = view_anew,
    terms = where.t == 'and' and where.n or where.t == 'all' and {} or {where},
    offset = op.offset or 0, limit = limit, want = (op.offset or 0) + limit,
    look = look, sort = sort, budget = budget_of(op, model), examined = 0, after = place_of(op.after),
  }
end
