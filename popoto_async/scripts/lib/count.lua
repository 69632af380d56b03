-- purpose: counts that need no walk
-- defines: count_by_index
-- include: lib/estimate.lua
-- include: lib/range.lua

-- By node type: how many records it lets through; nil where that takes a walk.
local counts = {
  all = function(_, query) return redis.call('ZCARD', query.model.class) end,
  none = function() return 0 end,
  any = function(node, query) return estimate.size(node, query.model) end,
  range = function(node, query) return range.count(node, query.view) end,
  keyed = function(node, query) return estimate.size(node, query.model) end,
  text = function(node) return values.count(node) end,
}

counts['not'] = function(node, query)
  local count = counts[node.n.t]
  local others = count and count(node.n, query)
  return others and redis.call('ZCARD', query.model.class) - others
end

local function count_by_index(query)
  local count = counts[query.where.t]
  return count and count(query.where, query)
end
