-- purpose: which of some record keys satisfy a condition, a chunk of keys at a time
-- defines: filter, such, set_of, either, in_range, scores_of
-- include: lib/tree.lua
-- include: lib/view.lua

local filter

-- The members for which `holds` is true, in their order. All filters here keep it.
local function such(members, holds)
  local passing = {}
  for i = 1, #members do
    if holds(members[i]) then
      passing[#passing + 1] = members[i]
    end
  end
  return passing
end

-- The members that pass at least one of several filters; each is asked only about those that no other let through.
local function either(members, options, passing_one, view)
  local found, left = {}, members
  for _, option in ipairs(options) do
    if #left == 0 then
      break
    end
    view.spent = view.spent + COST.walk * #left
    for _, member in ipairs(passing_one(option, left, view)) do
      found[member] = true
    end
    left = such(left, function(member) return not found[member] end)
  end
  return such(members, function(member) return found[member] end)
end

-- The scores of some keys (at most some hundred), false where they have none.
local function scores_of(z, keys, view)
  view.spent = view.spent + COST.probe * (#keys + 1)
  return redis.call('ZMSCORE', z, unpack(keys))
end

local function in_zset(z, members, view)
  local passing = {}
  for i, score in ipairs(scores_of(z, members, view)) do
    if score then
      passing[#passing + 1] = members[i]
    end
  end
  return passing
end

local function set_of(list)
  local set = {}
  for _, item in ipairs(list) do
    set[item] = true
  end
  return set
end

local function bound(text)
  local excluded = text:match('^%((.*)$')
  return tonumber(excluded or text), not excluded
end

-- The members in the range, in the order given. Only those at a bound may have to be read.
local function in_range(node, members, view)
  local low, takes_low = bound(node.lo)
  local high, takes_high = bound(node.hi)
  local inside, at_bound, at = {}, {}, {}
  for i, text in ipairs(redis.call('ZMSCORE', node.z, unpack(members))) do
    local score, member = tonumber(text), members[i]
    if score and score > low and score < high then
      inside[#inside + 1] = member
    elseif score and (score == low and takes_low or score > low) and (score == high and takes_high or score < high) then
      inside[#inside + 1] = member
      if node.x then
        at_bound[#at_bound + 1], at[member] = member, score
      end
    end
  end
  if #at_bound == 0 then
    return inside
  end
  local decided, passing = later.exact.decide(node, at_bound, at, view), {}
  for _, member in ipairs(inside) do
    if not at[member] or decided[member] then
      passing[#passing + 1] = member
    end
  end
  return passing
end

-- Filters by node type; those of conditions that few queries have are put off.
local filters = {}

function filters.any(node, members, view)
  if #node.z == 1 then
    return in_zset(node.z[1], members, view)
  end
  return either(members, node.z, in_zset, view)
end

function filters.range(node, members, view)
  view.spent = view.spent + 2 * COST.probe * #members
  return in_range(node, members, view)
end

filters['and'] = function(node, members, view)
  for _, child in ipairs(node.n) do
    members = filter(child, members, view)
  end
  return members
end

filters['not'] = function(node, members, view)
  local without = set_of(filter(node.n, members, view))
  return such(members, function(member) return not without[member] end)
end

-- The members (at most some hundred) that satisfy the node.
filter = function(node, members, view)
  if #members == 0 then
    return members
  end
  local passing = (filters[node.t] or later.rare_filters[node.t])(node, members, view)
  node.asked, node.passed = (node.asked or 0) + #members, (node.passed or 0) + #passing
  return passing
end
