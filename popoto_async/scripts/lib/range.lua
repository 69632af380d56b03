-- purpose: ranges of a sorted set, decided on the stored values where a score can stand for several
-- defines: range, verdicts, comparisons
-- include: lib/bytes.lua
-- include: lib/decimal.lua

local range = {}

-- More ties than this at one bound are walked, not counted.
local MOST_TIES = 500

-- What the comparison of a value with an operand has to give.
local verdicts = {
  eq = function(sign) return sign == 0 end,
  ne = function(sign) return sign ~= 0 end,
  lt = function(sign) return sign < 0 end,
  le = function(sign) return sign <= 0 end,
  gt = function(sign) return sign > 0 end,
  ge = function(sign) return sign >= 0 end,
}
local comparisons = {number = decimal.compare, text = bytes.compare, bytes = bytes.compare}

local function bound(text)
  local excluded = text:match('^%((.*)$')
  return tonumber(excluded or text), not excluded
end

local function satisfies(node, value)
  for _, condition in ipairs(node.x) do
    if not verdicts[condition[1]](comparisons[node.c](value, condition[2])) then
      return false
    end
  end
  return true
end

-- Whether members whose score is a bound of the range are in it. Those outside the tie set are told apart by their
-- score alone, so the stored value of one decides for all.
local function decide_bound(node, members, scores, view)
  local decided, ties = {}, redis.call('ZMSCORE', node.tie, unpack(members))
  node.settled = node.settled or {}
  for i, member in ipairs(members) do
    local known = node.settled[scores[member]]
    if ties[i] or known == nil then
      local value = view.value(member, node.f)
      known = value and satisfies(node, value)
      if value and not ties[i] then
        node.settled[scores[member]] = known
      end
    end
    decided[member] = known
  end
  return decided
end

-- The members in the range, in the order given. Only those at a bound may have to be read.
function range.filter(node, members, view)
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
  local decided, passing = decide_bound(node, at_bound, at, view), {}
  for _, member in ipairs(inside) do
    if not at[member] or decided[member] then
      passing[#passing + 1] = member
    end
  end
  return passing
end

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
  local found = #ties > 0 and #range.filter(node, ties, view) or 0
  if plain and #range.filter(node, {plain}, view) == 1 then
    found = found + redis.call('ZCOUNT', node.z, score, score) - #ties
  end
  return found
end

-- How many members are in the range; nil where that takes a walk.
function range.count(node, view)
  if not node.x then
    return redis.call('ZCOUNT', node.z, node.lo, node.hi)
  end
  local low, high = bound(node.lo), bound(node.hi)
  if low > high then
    return 0
  end
  local low_text, high_text = node.lo:match('[^(]+'), node.hi:match('[^(]+')
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
