-- purpose: how many records conditions let through, and what it costs to find them
-- defines: estimate
-- include: lib/commands.lua

local estimate = {}

-- The part of records that a condition on stored values is taken to let through.
local GUESS = 0.1

-- How many records of a model there are.
function estimate.all(model)
  model.count = model.count or redis.call('ZCARD', model.class)
  return model.count
end

-- How many candidates a node brings, by node type: all records of the class where nothing else can.
local sizes = {
  any = function(node) return #node.z == 1 and redis.call('ZCARD', node.z[1]) or later.rare_sizes.several(node) end,
  range = function(node) return redis.call('ZCOUNT', node.z, node.lo, node.hi) end,
  all = function(_, model) return estimate.all(model) end,
}
sizes.stored = sizes.all
sizes['not'] = sizes.all

sizes['and'] = function(node, model)
  local least = estimate.all(model)
  for _, child in ipairs(node.n) do
    least = math.min(least, estimate.size(child, model))
  end
  return least
end

function estimate.size(node, model)
  node.size = node.size or (sizes[node.t] or later.rare_sizes[node.t])(node, model)
  return node.size
end

-- The part of all records that a node is estimated to let through, its conditions taken as independent.
function estimate.share(node, model)
  if node.t == 'stored' then
    return GUESS
  elseif node.t == 'not' then
    return 1 - estimate.share(node.n, model)
  elseif node.t == 'and' then
    local share = 1
    for _, child in ipairs(node.n) do
      share = share * estimate.share(child, model)
    end
    return share
  elseif node.t == 'text' then
    return later.values.share(node, estimate.size(node, model), estimate.all(model))
  end
  return math.min(1, estimate.size(node, model) / math.max(1, estimate.all(model)))
end

-- The child of a conjunction whose candidates are cheapest to go through, 0 for the class, and what they cost: each has
-- to be looked up in what the other children name.
function estimate.cheapest(node, model)
  local best, least = 0, estimate.all(model) * (1 + node.weight)
  for number, child in ipairs(node.n) do
    local cost = estimate.size(child, model) * (1 + node.weight - child.weight) + (child.looks or 0)
    if cost < least then
      best, least = number, cost
    end
  end
  return best, least
end

-- What it costs to go through all candidates of a node; one that needs no look-up costs 1.
function estimate.cost(node, model)
  if node.t ~= 'and' then
    return estimate.size(node, model) + (node.looks or 0)
  end
  local _, cost = estimate.cheapest(node, model)
  return cost
end
