-- purpose: estimates of conditions that stand together
-- defines: together
-- include: lib/estimate.lua

local together = {}

-- The part of records that a condition on stored values is taken to let through.
local GUESS = 0.1

-- The part of all records that a node is estimated to let through, its conditions taken as independent.
function together.share(node, model)
  if node.t == 'stored' then
    return GUESS
  elseif node.t == 'not' then
    return 1 - together.share(node.n, model)
  elseif node.t == 'and' then
    local share = 1
    for _, child in ipairs(node.n) do
      share = share * together.share(child, model)
    end
    return share
  elseif node.t == 'text' then
    return later.values.share(node, estimate.size(node, model), estimate.all(model))
  end
  return math.min(1, estimate.size(node, model) / math.max(1, estimate.all(model)))
end

-- The child of a conjunction whose candidates are cheapest to go through, 0 for the class, and what they cost: each has
-- to be looked up in what the other children name.
function together.cheapest(node, model)
  local best, least = 0, estimate.all(model) * (1 + node.weight)
  for number, child in ipairs(node.n) do
    local cost = estimate.size(child, model) * (1 + node.weight - child.weight) + (child.looks or 0)
    if cost < least then
      best, least = number, cost
    end
  end
  return best, least
end
