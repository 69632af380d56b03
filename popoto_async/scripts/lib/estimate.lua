-- purpose: how many records conditions let through, and what it costs to find them
-- defines: estimate
-- include: lib/commands.lua

local estimate = {}

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

function estimate.size(node, model)
  node.size = node.size or (sizes[node.t] or later.rare_sizes[node.t])(node, model)
  return node.size
end

-- What it costs to go through all candidates of a node; one that needs no look-up costs 1.
function estimate.cost(node, model)
  if node.t ~= 'and' then
    return estimate.size(node, model) + (node.looks or 0)
  end
  local _, cost = later.together.cheapest(node, model)
  return cost
end
