-- purpose: who refers to the records that satisfy a condition: how many, and one after the other
-- defines: targets
-- include: lib/estimate.lua
-- include: lib/sets.lua
-- include: lib/tree.lua
-- include: lib/view.lua
-- include: lib/walk.lua

local targets = {}

-- To learn how many are referred to, and how often: records looked at, sources that these come from, sets of who refers
-- to them, at most.
local SAMPLE, SAMPLED_SOURCES, SAMPLED_SETS = 32, 8, 12

-- What it costs to open the set of who refers to a record, in candidates that need no look-up.
local OPENED = 2

-- Records looked at first, doubled from then on, so that a small page looks at few.
local FIRST = 8

-- The next records of m, at most `count` of those that a source of n brings, less what doesn't satisfy n.
local function take_targets(node, position, count)
  local view = later.via.view(node)
  local members = walk.take(position, count, view)
  local found = later.driver.filter(position.source, later.via.alive(node, members, view), view)
  view.spent = view.spent + COST.walk * #members
  later.via.charge(view)
  return found, members[#members]
end

-- For each record of m its earlier keys that references still hold.
local function earlier_keys(m)
  if not m.earlier then
    m.earlier = {}
    for key, present in pairs(later.via.aliases(m) or {}) do
      m.earlier[present] = m.earlier[present] or {}
      table.insert(m.earlier[present], key)
    end
  end
  return m.earlier
end

-- Adds the keys that a record is referred to by. References move from earlier keys to the present one, so that comes
-- after them: none is missed.
local function add_keys(keys, m, key)
  for _, earlier in ipairs(earlier_keys(m)[key] or {}) do
    keys[#keys + 1] = earlier
  end
  keys[#keys + 1] = key
end

-- A few of the records that satisfy n: how many of how many `looked` at, whether these were `all`, how many refer to
-- each of them on average.
local function sampled(node)
  local keys, looked, all = {}, 0, true
  for number, source in ipairs(later.sources.of(node.n, node.m, {list = {}, made = 0})) do
    local position = number <= SAMPLED_SOURCES and looked < SAMPLE and walk.open(source)
    while position and position.next < position.stop and looked < SAMPLE do
      local first = position.next
      for _, key in ipairs((take_targets(node, position, SAMPLE - looked))) do
        add_keys(keys, node.m, key)
      end
      looked = looked + position.next - first
    end
    all = all and position and position.next >= position.stop or false
  end
  local references, sets = 0, math.min(#keys, SAMPLED_SETS)
  for number = 1, sets do
    references = references + redis.call('ZCARD', node.rel .. keys[math.ceil(number * #keys / sets)])
  end
  return {looked = looked, targets = #keys, all = all, each = sets > 0 and references / sets}
end

-- How many records of `model` refer to those that satisfy n. Leaves on the node under how many keys (`targets`), and
-- what it takes to find those: each record is looked at, and the set of who refers to it opened (`looks`).
function targets.size(node, model)
  if not node.references then
    local sample, here, there = sampled(node), redis.call('ZCARD', model.class), redis.call('ZCARD', node.m.class)
    node.targets = sample.targets
    if not sample.all then
      local candidates = math.max(sample.looked, estimate.size(node.n, node.m))
      node.targets = candidates * math.max(sample.targets, 0.5) / math.max(1, sample.looked)
    end
    node.references = math.ceil(math.min(here, node.targets * (sample.each or here / math.max(1, there))))
    node.looks = estimate.cost(node.n, node.m) + OPENED * node.targets
  end
  return node.references
end

-- The keys of an earlier call that are left, without those of records that satisfy n no more. A record that has another
-- key since is referred to by that, too.
local function ask_again(node, keys)
  local moved, present, wanted, listed, found = later.via.aliases(node.m) or {}, {}, {}, {}, {}
  for i, key in ipairs(keys) do
    present[i], listed[key] = moved[key] or key, true
  end
  for _, key in ipairs(later.via.satisfying(node, present)) do
    wanted[key] = true
  end
  for i, key in ipairs(keys) do
    if wanted[present[i]] then
      found[#found + 1] = key
      if not listed[present[i]] then
        found[#found + 1], listed[present[i]] = present[i], true
      end
    end
  end
  return found
end

-- A position in all that a node brings, of which the `sources` of n bring the records of m. `at`: what `targets.place`
-- said of an earlier one: for each relation, the outermost first, how far it got, then how far the innermost source.
function targets.open(source, at)
  local position = {
    source = source, next = 0, stop = math.huge, number = 1, keys = {}, key = 0, after = false, looks = FIRST,
  }
  if at then
    local own, inner = at.chain[1], {unpack(at.chain, 2)}
    position.number, position.reached, position.keys = own.number, inner, ask_again(source.through, own.keys)
    if #inner > 0 then
      position.within = walk.open(source.sources[own.number], inner[1].number and {chain = inner} or inner[1])
    end
    if own.after and position.keys[1] == own.keys[1] then
      position.key, position.after, position.under_way = 1, own.after, true
    end
  end
  return position
end

-- Looks at the next records of m, at most `count`; how many there were.
local function look(position, count)
  local source, looked = position.source, 0
  if not position.within and source.sources[position.number] then
    position.within = walk.open(source.sources[position.number])
    tree.view.spent = tree.view.spent + COST.open
  end
  local within = position.within
  position.keys, position.key = {}, 0
  if within and within.next < within.stop then
    local first, found = within.next, nil
    found, position.last = take_targets(source.through, within, math.min(count, position.looks))
    looked, position.reached, position.looks = within.next - first, nil, 2 * position.looks
    for _, key in ipairs(found) do
      add_keys(position.keys, source.through.m, key)
    end
  end
  if not within or within.next >= within.stop then
    position.within, position.reached, position.number = nil, {}, position.number + 1
    position.ended = position.number > #source.sources
  end
  return looked
end

-- Adds the next of those who refer to one record.
local function take_from_set(position, count, found, view)
  local source = position.source
  local members = members_after(source.through.rel .. position.keys[position.key], source, position.after, count)
  view.spent = view.spent + (position.after and COST.probe or COST.set)
  for _, member in ipairs(members) do
    found[#found + 1] = member
  end
  position.after, position.under_way = members[#members] or false, #members == count
end

-- The next who refer, at most `count`, to as many records, of as many looked at.
function targets.take(position, count, view)
  local found, looked, opened = {}, 0, 0
  while #found < count do
    if position.under_way then
      take_from_set(position, count - #found, found, view)
    elseif position.key < #position.keys and opened < count then
      position.key, position.after, position.under_way, opened = position.key + 1, false, true, opened + 1
    elseif position.key < #position.keys or position.ended or looked > 0 then
      break
    else
      looked = look(position, count)
    end
  end
  position.next = position.next + looked + #found
  if position.ended and not position.under_way and position.key == #position.keys then
    position.stop = position.next
  end
  return found
end

-- What `targets.open` needs to go on, flat because little can be packed that is nested.
function targets.place(position)
  local left = {unpack(position.keys, position.under_way and position.key or position.key + 1)}
  local own = {number = position.number, after = position.under_way and position.after, keys = left}
  local inner = position.reached
  if not inner then
    local place = later.resume.place(position.within, position.last)
    inner = place.chain or {place}
  end
  return {chain = {own, unpack(inner)}}
end
