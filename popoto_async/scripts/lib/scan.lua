-- purpose: going through the candidates of a plan until the page is full, all are seen or the budget is spent
-- defines: scan
-- include: lib/along.lua
-- include: lib/view.lua
-- include: lib/walk.lua

-- Chunks double, so that a small page looks at little more than itself. The first is that which is expected to fill it,
-- and a quarter more.
local CHUNK = {least = 8, first = 32, largest = 500, more = 1.25}
-- The part of a budget by which a call may exceed it, so that its last chunks are not all small.
local SLACK = 0.1

local function is_spent(query)
  return query.examined >= query.budget or query.view.spent + query.view.owed >= query.budget
end

-- How many candidates to look at next, at least one, each of which takes at most `weight` look-ups: as many as the budget allows if they cost what others did, and hardly
-- more than it allows should they cost the most they can.
local function next_chunk(query, plan, weight, collect)
  local rate = query.examined > 0 and query.view.spent / query.examined or 1 + weight
  local left = query.budget - query.view.spent - query.view.owed
  local affordable = math.min(left / rate, query.budget - query.examined)
  local sure = math.max(left, SLACK * query.budget)
  local pays = plan.sorted and math.huge or plan.left  -- candidates that cost what it takes to pass
  local certain = math.max(sure / (query.look + collect.cost), (sure - pays * collect.cost) / query.look)
  local size = math.min(query.chunk, CHUNK.largest, affordable, certain)
  query.chunk = 2 * query.chunk
  return math.max(1, math.floor(size))
end

-- Goes through a source until it ends, the page is full or the budget is spent; says which, and the last member seen.
local function scan_source(query, plan, position, collect)
  local source, view = position.source, query.view
  if plan.skip > 0 and not plan.sorted then
    later.ranks.jump(plan, position)
  end
  view.spent = view.spent + COST.open
  local tested = #source.tests + #source.excepts > 0
  local weight = tested and later.driver.weight(source) or 0
  while position.next < position.stop do
    local first = position.next
    local members = walk.take(position, next_chunk(query, plan, weight, collect), view)
    local seen = position.next - first
    query.examined, view.spent = query.examined + seen, view.spent + seen * COST.walk
    if collect.take(position, tested and later.driver.filter(source, members, view) or members) then
      return 'full'
    elseif is_spent(query) and position.next < position.stop then
      return 'spent', members[#members]
    end
  end
  return 'ended'
end

-- Goes through strata and sources from plan.at; leaves there where to go on, nothing when all is done.
local function scan(query, plan, collect)
  local at = plan.at or (query.after and later.resume.start(query, plan)) or {stratum = 1, source = 1}
  -- How long the lists of records are is known when the first has been read.
  local first = math.ceil(CHUNK.more * (query.expected or CHUNK.first))
  plan.at, query.chunk = nil, query.model.lists and 1 or math.max(CHUNK.least, math.min(CHUNK.first, first))
  local stratum = plan.kind == 'walk' and along or (plan.kind == 'drive' and later.sources or later.rings).stratum
  local sources = stratum(query, plan, at.stratum)
  while sources do
    while at.source <= #sources do
      if is_spent(query) then
        plan.at = at
        return
      end
      local position = walk.open(sources[at.source], (at.member or at.rank or at.text or at.chain) and at)
      if plan.edge then
        later.ranks.end_at(position, plan.edge)
      end
      local state, last = scan_source(query, plan, position, collect)
      if state == 'full' then
        return
      elseif state == 'spent' then
        plan.at = later.resume.place(position, last)
        plan.at.stratum, plan.at.source = at.stratum, at.source
        return
      end
      at = {stratum = at.stratum, source = at.source + 1}
    end
    if plan.left == 0 or (plan.sorted and plan.found >= query.want) then
      return
    end
    at = {stratum = at.stratum + 1, source = 1}
    sources = stratum(query, plan, at.stratum)
  end
end
