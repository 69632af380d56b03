-- purpose: counts: from the indexes alone where they say it, else of the candidates that pass
-- defines: count_by_index, counted
-- include: lib/collect.lua
-- include: lib/estimate.lua

-- More ties than this at one bound are walked, not counted.
local MOST_TIES = 500

-- How many of the members with this score are in the range; nil where that takes a walk.
local function count_at(node, score, view)
  local ties = redis.call('ZRANGEBYSCORE', node.tie, score, score, 'LIMIT', 0, MOST_TIES + 1)
  if #ties > MOST_TIES then
    return nil
  end
  local is_tie, plain = {}, nil
  for _, member in ipairs(ties) do
    is_tie[member] = true
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', node.z, score, score, 'LIMIT', 0, #ties + 1)) do
    plain = plain or (not is_tie[member] and member)
  end
  if plain and not view.value(plain, node.f) then
    return nil
  end
  local found = #ties > 0 and #later.in_range(node, ties, view) or 0
  if plain and #later.in_range(node, {plain}, view) == 1 then
    found = found + redis.call('ZCOUNT', node.z, score, score) - #ties
  end
  return found
end

-- How many members are in the range; nil where that takes a walk.
local function count_range(node, view)
  if not node.x then
    return redis.call('ZCOUNT', node.z, node.lo, node.hi)
  end
  local low_text, high_text = node.lo:match('[^(]+'), node.hi:match('[^(]+')
  local low, high = tonumber(low_text), tonumber(high_text)
  if low > high then
    return 0
  end
  local found = low < high and redis.call('ZCOUNT', node.z, '(' .. low_text, '(' .. high_text) or 0
  for _, edge in ipairs(low < high and {low_text, high_text} or {low_text}) do
    local at_edge = count_at(node, edge, view)
    if not at_edge then
      return nil
    end
    found = found + at_edge
  end
  return found
end

-- By node type: how many records it lets through; nil where that takes a walk.
local counts = {
  all = function(_, query) return redis.call('ZCARD', query.model.class) end,
  none = function() return 0 end,
  any = function(node, query) return estimate.size(node, query.model) end,
  range = function(node, query) return count_range(node, query.view) end,
  keyed = function(node, query) return estimate.size(node, query.model) end,
  points = function(node, query) return estimate.size(node, query.model) end,
  text = function(node) return later.values.count(node) end,
}

function counts.among(node, query)
  return node.n.t == 'any' and counts.any(node.n, query) or nil
end

counts['not'] = function(node, query)
  local count = counts[node.n.t]
  local others = count and count(node.n, query)
  return others and redis.call('ZCARD', query.model.class) - others
end

local function count_by_index(query)
  local count = counts[query.where.t]
  return count and count(query.where, query)
end

-- The collector of a count.
local function counted(query, plan)
  local count = 0
  local take = collect.in_order(plan, function(found, first)
    local more = math.min(#found - first + 1, plan.left)
    count = count + more
    return more
  end)
  return {cost = 0, take = take, reply = function(cursor)
    return {cursor and 'more' or 'ok', count, query.examined, cursor}
  end}
end
