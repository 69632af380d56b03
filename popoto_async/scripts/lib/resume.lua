-- purpose: where a query goes on: after a record that was shown, or where an earlier call stopped
-- defines: resume
-- include: lib/choice.lua
-- include: lib/tree.lua

local resume = {}

-- The place after which records count, with its texts: {key, texts, scores}, by order, false where there is none.
function resume.after(after)
  local texts = {}
  for i, at in ipairs(after.at) do
    texts[i] = at and ARGV[tree.at + at]
  end
  return {key = after.key, texts = texts, scores = after.scores}
end

-- Where a plan begins that goes on from a place in the order: a walk in order after it, one to be sorted at its score, and
-- beyond all values after a null.
function resume.start(query, plan)
  local after, by, at = query.after, query.orders[1], {stratum = 1, source = 1}
  if plan.kind ~= 'walk' then
    return at
  end
  local score = by.by == 'index' and after.scores[1]
  if by.by == 'index' and not score then
    at.stratum = 2
  end
  if not plan.sorted or (at.stratum == 2 and #query.orders == 1) then
    at.member, at.score = after.key, score or '0'
  end
  return at
end

-- What `walk.open` needs to go on after a member that was taken.
function resume.place(position, member)
  if position.source.list then
    return {rank = position.next}
  elseif position.source.values then
    return later.values.place(position)
  elseif position.source.through then
    return later.targets.place(position)
  end
  return {score = redis.call('ZSCORE', position.source.z, member), member = member}
end

-- A walk that has found nothing and has cost as much as all of another plan would is given up for that: nothing has
-- been shown yet that would have to be taken back.
local function reconsidered(query, plan)
  local nothing = plan.found == 0 and plan.skip == query.offset and plan.left == query.limit
  plan.walked = plan.walked + query.examined * (1 + query.where.weight)
  if plan.kind == 'walk' and nothing and plan.walked > plan.rival then
    return choice.begun(query, choice.drive(query))
  end
  return plan
end

function resume.cursor(query, plan)
  plan = reconsidered(query, plan)
  plan.left = plan.left == math.huge and -1 or plan.left
  return cmsgpack.pack(plan)
end

function resume.plan(cursor)
  cursor.left = cursor.left < 0 and math.huge or cursor.left
  return cursor
end
