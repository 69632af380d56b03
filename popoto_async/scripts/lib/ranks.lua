-- purpose: the ranks of the members of a source, where more than its scores bound them
-- defines: ranks
-- include: lib/bytes.lua
-- include: lib/commands.lua

local ranks = {}

local function is_before(source, member, score, at)
  if score ~= at.score then
    return (score < at.score) ~= (source.desc or false)
  end
  return bytes.less(member, at.member) ~= (source.desc or false)
end

-- The rank after the member where an earlier call stopped, or after its place if it has left it.
function ranks.after(source, at, low, high)
  local place = {member = at.member, score = tonumber(at.score)}
  local score = redis.call('ZSCORE', source.z, at.member)
  if score and tonumber(score) == place.score then
    return redis.call(source.desc and 'ZREVRANK' or 'ZRANK', source.z, at.member) + 1
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found
    if source.desc then
      found = redis.call('ZRANGE', source.z, middle, middle, 'REV', 'WITHSCORES')
    else
      found = redis.call('ZRANGE', source.z, middle, middle, 'WITHSCORES')
    end
    if is_before(source, found[1], tonumber(found[2]), place) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- Where the index answers alone, an offset is a rank.
function ranks.jump(plan, position)
  local source = position.source
  if source.z and #source.tests + #source.excepts == 0 then
    local jump = math.max(0, math.min(plan.skip, position.stop - position.next))
    plan.skip, position.next = plan.skip - jump, position.next + jump
  end
end

-- The ranks of the members that begin with `lex`: the first, and the one after the last.
function ranks.lex(source)
  local first, last = '[' .. source.lex, '[' .. source.lex .. '\255'
  if source.desc then
    return redis.call('ZLEXCOUNT', source.z, last, '+'), redis.call('ZLEXCOUNT', source.z, first, '+')
  end
  return redis.call('ZLEXCOUNT', source.z, '-', '(' .. source.lex), redis.call('ZLEXCOUNT', source.z, '-', last)
end

-- The same of the members within a span of keys.
function ranks.span(source)
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

-- Ends a walk with the members that have this score.
function ranks.end_at(position, score)
  local source = position.source
  local lo, hi = source.desc and score or '-inf', source.desc and '+inf' or score
  position.stop = math.min(position.stop, redis.call('ZCOUNT', source.z, lo, hi))
end
