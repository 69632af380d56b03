-- purpose: the records of a condition on texts, through the list of the distinct values
-- defines: values
-- include: lib/sets.lua
-- include: lib/tails.lua
-- include: lib/view.lua

-- A node {t = 'text'} with a `listing` names a sorted set of escaped texts, scores 0. Those that begin with `p` stand
-- together, and are the ones wanted; without a beginning each is compared. The records of a text are a sorted set too,
-- `z` and the text, or have the text as a claim in the hash `h`.
local values = {}

-- Lists this short are gone through for an exact size, and those for an exact count.
local SMALL, COUNTED = 30, 500

-- The part of records that a comparison of texts is taken to let through.
local PASSING = 0.1

local function bounds(node)
  if node.p == '' then
    return '-', '+'
  end
  return '[' .. node.p, '(' .. node.p .. '\255'  -- a byte that no text contains
end

-- How many texts of the list are to be looked at.
local function looks(node)
  local lo, hi = bounds(node)
  node.looks = node.looks or redis.call('ZLEXCOUNT', node.listing, lo, hi)
  return node.looks
end

-- The first of these listed texts' values that satisfy the node, as the tails of the index; and the listed ones.
local function matching(node, listed)
  local tails, places = {}, {}
  for _, text in ipairs(listed) do
    if node.p ~= '' or later.texts.holds_escaped(node, text) then
      tails[#tails + 1] = node.mirror and mirrored(text) or text
      places[#places + 1] = text
    end
  end
  return tails, places
end

-- How many records the first `count` texts of the list bring.
local function records(node, count)
  local lo, hi = bounds(node)
  local tails = matching(node, redis.call('ZRANGEBYLEX', node.listing, lo, hi, 'LIMIT', 0, count))
  local total = #tails
  if node.z then
    total = 0
    for _, tail in ipairs(tails) do
      total = total + redis.call('ZCARD', node.z .. tail)
    end
  end
  return total
end

-- How many records the node is taken to bring.
function values.size(node, model)
  local all = redis.call('ZCARD', model.class)
  if not node.listing then
    return all
  end
  local count = looks(node)
  if count <= SMALL then
    return records(node, SMALL)
  elseif node.p == '' then
    return PASSING * all
  end
  return math.min(all, node.h and count or count * records(node, SMALL) / SMALL)
end

-- The part of all records that the node is taken to let through.
function values.share(node, size, all)
  return node.listing and math.min(1, size / math.max(1, all)) or PASSING
end

-- How many records satisfy the node; nil where that takes a walk.
function values.count(node)
  if not node.listing then
    return nil
  end
  local count = looks(node)
  if node.h and node.p ~= '' then
    return count
  end
  return count <= COUNTED and records(node, COUNTED) or nil
end

-- A position in all that a node brings. `at`: what `values.place` said of an earlier one.
function values.open(source, at)
  local node, lo, hi = source.values, bounds(source.values)
  local position = {source = source, next = 0, stop = math.huge, lo = lo, hi = hi, tails = {}, places = {}, taken = 0}
  if at then
    position.lo, position.passed = '(' .. at.text, at.text
    if at.member then
      local tail = node.mirror and mirrored(at.text) or at.text
      position.set, position.text, position.after = node.z .. tail, at.text, at.member
    end
  end
  return position
end

-- Looks at the next texts of the list, at most `count`; how many there were.
local function look(position, count)
  local listed = redis.call('ZRANGEBYLEX', position.source.values.listing, position.lo, position.hi, 'LIMIT', 0, count)
  position.tails, position.places = matching(position.source.values, listed)
  position.taken, position.ended = 0, #listed < count
  position.reached = listed[#listed] or position.reached
  position.lo = position.reached and '(' .. position.reached or position.lo
  return #listed
end

-- Adds the next members of the set under way.
local function take_from_set(position, count, found, view)
  local members = members_after(position.set, position.source, position.after, count)
  view.spent = view.spent + (position.after and COST.probe or COST.set)
  for _, member in ipairs(members) do
    found[#found + 1] = member
  end
  if #members < count then
    position.set, position.passed = nil, position.text
  else
    position.after = members[#members]
  end
end

-- Adds the owners of the next claims.
local function take_owners(position, node, count, found, view, model)
  local last = math.min(position.taken + count, #position.tails)
  local owners = later.owners_of({h = node.h, v = {unpack(position.tails, position.taken + 1, last)}})
  view.spent = view.spent + COST.probe * (last - position.taken)
  for _, owner in ipairs(later.filter({t = 'any', z = {model.class}}, owners, view)) do
    found[#found + 1] = owner
  end
  position.taken, position.passed = last, position.places[last]
end

-- The next members, at most `count`, of at most as many later.texts.
function values.take(position, count, view)
  local node, model, found, looked = position.source.values, position.source.model, {}, 0
  while #found < count do
    if position.set then
      take_from_set(position, count - #found, found, view)
    elseif position.taken < #position.tails then
      if node.h then
        take_owners(position, node, count - #found, found, view, model)
      else
        position.taken = position.taken + 1
        position.set, position.after = node.z .. position.tails[position.taken], false
        position.text = position.places[position.taken]
      end
    elseif position.ended then
      break
    else
      position.passed = position.reached or position.passed
      if looked > 0 then
        break
      end
      looked = look(position, count)
      view.spent = view.spent + (node.p == '' and COST.walk * looked or 0)
    end
  end
  position.next = position.next + looked + #found
  if position.ended and not position.set and position.taken == #position.tails then
    position.stop = position.next
  end
  return found
end

-- What `values.open` needs to go on.
function values.place(position)
  if position.set then
    return {text = position.text, member = position.after}
  end
  local done = position.taken == #position.tails and position.reached or position.passed
  return {text = done}
end
