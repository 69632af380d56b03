-- purpose: walking a source by rank, and going on where an earlier call stopped
-- defines: walk
-- include: lib/bytes.lua
-- include: lib/tree.lua
-- include: lib/values.lua

local walk = {}

-- A bound seen from its other side: where `5` ends, `(5` begins.
local function beyond(bound)
  return bound:match('^%((.*)$') or '(' .. bound
end

local function slice(source, first, last, ...)
  if source.desc then
    return redis.call('ZRANGE', source.z, first, last, 'REV', ...)
  end
  return redis.call('ZRANGE', source.z, first, last, ...)
end

local function is_before(source, member, score, at)
  if score ~= at.score then
    return (score < at.score) ~= (source.desc or false)
  end
  return bytes.less(member, at.member) ~= (source.desc or false)
end

-- The rank after the member where an earlier call stopped, or after its place if it has left it.
local function rank_after(source, at, low, high)
  local place = {member = at.member, score = tonumber(at.score)}
  local score = redis.call('ZSCORE', source.z, at.member)
  if score and tonumber(score) == place.score then
    return redis.call(source.desc and 'ZREVRANK' or 'ZRANK', source.z, at.member) + 1
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = slice(source, middle, middle, 'WITHSCORES')
    if is_before(source, found[1], tonumber(found[2]), place) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The ranks of the members that begin with `lex`: the first, and the one after the last.
local function lex_ranks(source)
  local first, last = '[' .. source.lex, '[' .. source.lex .. '\255'
  if source.desc then
    return redis.call('ZLEXCOUNT', source.z, last, '+'), redis.call('ZLEXCOUNT', source.z, first, '+')
  end
  return redis.call('ZLEXCOUNT', source.z, '-', '(' .. source.lex), redis.call('ZLEXCOUNT', source.z, '-', last)
end

-- The same of the members within a span of keys.
local function span_ranks(source)
  local span, first, stop = source.span, 0, nil
  if source.desc then
    first = span.from and redis.call('ZLEXCOUNT', source.z, '[' .. span.from, '+') or 0
    stop = span.to and redis.call('ZLEXCOUNT', source.z, '(' .. span.to, '+')
  else
    first = span.from and redis.call('ZLEXCOUNT', source.z, '-', '[' .. span.from) or 0
    stop = span.to and redis.call('ZLEXCOUNT', source.z, '-', '(' .. span.to)
  end
  return first, stop or redis.call('ZCARD', source.z)
end

-- A position in a source: its members of rank `next` (from 0, in its own direction) up to, without, `stop` are to come.
function walk.open(source, at)
  if source.list then
    return {source = source, next = at and at.rank or 0, stop = #source.list}
  end
  if source.values then
    return values.open(source, at)
  elseif source.through then
    return via.targets.open(source, at)
  end
  local lo, hi = source.lo or '-inf', source.hi or '+inf'
  local first, stop
  if source.lex then
    first, stop = lex_ranks(source)
  elseif source.span then
    first, stop = span_ranks(source)
  elseif source.desc then
    first = redis.call('ZCOUNT', source.z, beyond(hi), '+inf')
    stop = redis.call('ZCOUNT', source.z, lo, '+inf')
  else
    first = redis.call('ZCOUNT', source.z, '-inf', beyond(lo))
    stop = redis.call('ZCOUNT', source.z, '-inf', hi)
  end
  return {source = source, next = at and math.max(first, rank_after(source, at, first, stop)) or first, stop = stop}
end

-- Ends a walk with the members that have this score.
function walk.end_at(position, score)
  local source = position.source
  local lo, hi = source.desc and score or '-inf', source.desc and '+inf' or score
  position.stop = math.min(position.stop, redis.call('ZCOUNT', source.z, lo, hi))
end

-- The next members, at most `count`.
function walk.take(position, count, view)
  local source, first = position.source, position.next
  if source.values then
    return values.take(position, count, view)
  elseif source.through then
    return via.targets.take(position, count, view)
  end
  local last = math.min(first + count, position.stop) - 1
  if last < first then
    return {}
  end
  position.next = last + 1
  if not source.list then
    return slice(source, first, last)
  end
  return tree.filter({t = 'any', z = {source.within}}, {unpack(source.list, first + 1, last + 1)}, view)
end

-- What `walk.open` needs to go on after a member that was taken.
function walk.place(position, member)
  if position.source.list then
    return {rank = position.next}
  elseif position.source.values then
    return values.place(position)
  elseif position.source.through then
    return via.targets.place(position)
  end
  return {score = redis.call('ZSCORE', position.source.z, member), member = member}
end
