-- purpose: how many records conditions let through, and what it costs to find them
-- defines: estimate
-- include: lib/geo.lua
-- include: lib/tree.lua
-- include: lib/values.lua

local estimate = {}

-- The part of records that a condition on stored values is taken to let through.
local GUESS = 0.1

local function card(z)
  return redis.call('ZCARD', z)
end

local function sum(list, measure)
  local total = 0
  for _, item in ipairs(list) do
    total = total + measure(item)
  end
  return total
end

local function area_size(node)
  return card(node.pole) + sum(geo.stretches(node), function(stretch)
    return redis.call('ZCOUNT', node.z, stretch.lo, stretch.hi)
  end)
end

-- How many candidates a node brings, by node type: all records of the class where nothing else can.
local sizes = {
  all = function(_, model) return card(model.class) end,
  none = function() return 0 end,
  any = function(node) return sum(node.z, card) end,
  range = function(node) return redis.call('ZCOUNT', node.z, node.lo, node.hi) end,
  keys = function(node) return #node.k end,
  claim = function(node) return #node.v end,
  near = area_size,
  box = area_size,
  text = values.size,
  keyed = function(node, model)
    return redis.call('ZLEXCOUNT', model.class, '[' .. node.p, '(' .. node.p .. '\255')
  end,
}
sizes.stored = sizes.all
sizes['not'] = sizes.all

function sizes.via(node, model)
  return via.targets.size(node, model)
end

sizes['or'] = function(node, model)
  return math.min(card(model.class), sum(node.n, function(child) return estimate.size(child, model) end))
end

sizes['and'] = function(node, model)
  local least = card(model.class)
  for _, child in ipairs(node.n) do
    least = math.min(least, estimate.size(child, model))
  end
  return least
end

function estimate.size(node, model)
  node.size = node.size or sizes[node.t](node, model)
  return node.size
end

-- Whether sizes are those of indexes, no guesses, and nothing but indexes has to be gone through to know them.
function estimate.is_certain(node)
  if node.t == 'via' or node.t == 'text' then
    return false
  elseif node.t == 'not' then
    return estimate.is_certain(node.n)
  end
  for _, part in ipairs((node.t == 'and' or node.t == 'or') and node.n or {}) do
    if not estimate.is_certain(part) then
      return false
    end
  end
  return true
end

-- How many stretches of sorted sets hold the candidates of a node whose size is certain, at most.
function estimate.sources(node)
  if node.t == 'near' or node.t == 'box' then
    return 1 + #geo.stretches(node)
  elseif node.t == 'and' or node.t == 'or' then
    return 1 + sum(node.n, estimate.sources)
  end
  return node.t == 'any' and #node.z or 1
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
    return values.share(node, estimate.size(node, model), card(model.class))
  end
  return math.min(1, estimate.size(node, model) / math.max(1, card(model.class)))
end

-- The child of a conjunction whose candidates are cheapest to go through, 0 for the class, and what they cost: each has
-- to be looked up in what the other children name.
function estimate.cheapest(node, model)
  local best, least = 0, card(model.class) * (1 + node.weight)
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
