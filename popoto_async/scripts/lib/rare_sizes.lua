-- purpose: how many candidates conditions bring that few queries have
-- defines: rare_sizes, sum
-- include: lib/estimate.lua

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
  return card(node.pole) + sum(later.geo.stretches(node), function(stretch)
    return redis.call('ZCOUNT', node.z, stretch.lo, stretch.hi)
  end)
end

-- By node type, as in `estimate.lua`.
local rare_sizes = {
  none = function() return 0 end,
  keys = function(node) return #node.k end,
  claim = function(node) return #node.v end,
  several = function(node) return sum(node.z, card) end,
  near = area_size,
  box = area_size,
  points = function(node) return sum(node.s, function(score) return redis.call('ZCOUNT', node.z, score, score) end) end,
  among = function(node, model) return estimate.size(node.n, model) end,
  text = function(node, model) return later.values.size(node, model) end,
  via = function(node, model) return later.targets.size(node, model) end,
  keyed = function(node, model)
    return redis.call('ZLEXCOUNT', model.class, '[' .. node.p, '(' .. node.p .. '\255')
  end,
}

rare_sizes['or'] = function(node, model)
  return math.min(estimate.all(model), sum(node.n, function(child) return estimate.size(child, model) end))
end

rare_sizes['and'] = function(node, model)
  local least = estimate.all(model)
  for _, child in ipairs(node.n) do
    least = math.min(least, estimate.size(child, model))
  end
  return least
end
