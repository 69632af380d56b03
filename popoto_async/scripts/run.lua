-- purpose: every operation, writing ones included
-- keys: the class key of the first operation; all others share its hash tag
-- args: the header, then the values it refers to
-- reply: time in s, µs, outcomes | refused | unknown

local operations = {}
-- include: lib/done.lua
-- include: lib/main.lua
-- include: lib/slots.lua
-- include: lib/due.lua
-- operations: save push delete load fetch select+matching expire+sweep transaction group publish
-- operations: save_referred+rewrite+erase audit+members+tell+weigh+behind+mend+prune+mark

-- How long a lane's last outcomes are remembered, in ms: longer than any call is resent.
local LANE_TTL = '3600000'
-- Digits of a sequence number, so that two compare as texts.
local DIGITS = 16

-- A sequence that was answered gets the same answers; an earlier one comes too late. Remembered are the outcomes of
-- writes that are not the usual one, by the number of the operation.
local stored = redis.call('GET', call.lane)
local answered
if stored then
  local last = stored:sub(1, DIGITS)
  if last > call.seq then
    return {'refused'}
  elseif last == call.seq then
    answered = #stored > DIGITS and cmsgpack.unpack(stored:sub(DIGITS + 1)) or {}
  end
elseif call.resend then
  return {'unknown'}
end

-- A model is made ready once in a call: its slots compared, what is due of it swept.
local function make_ready(model)
  model.ready = true
  model.refusal = slots_differ(model)
  local none = redis.call('EXISTS', model.exp, model.man, model.alias) == 0
  absent[model.exp], absent[model.man], absent[model.alias] = none, none, none
  model.due = not none and not model.refusal and has_due(model, call.now) and
    operations.sweep(call, {}, model)[3] == 1
end

local function refusal(model)
  if not model.ready then
    local done, reason = pcall(make_ready, model)
    if not done then
      -- include: lib/failure.lua
      model.refusal = failure(reason)
    end
  end
  return model.refusal
end

local remembered = {}
answer_each(function(op, model, number)
  if answered and not op.reads then
    return answered[number] or DONE
  end
  local outcome = refusal(model) or (model.due and op.reads and {'due'})
  if op.ops then
    -- A transaction is refused as a whole, and says for which of its operations.
    for i, step in ipairs(op.ops) do
      local refused = refusal(call.models[step.m or 1])
      outcome = outcome or (refused and {'failed', i, refused})
    end
  end
  outcome = outcome or run_operation(op, model)
  if not op.reads and outcome ~= DONE then
    remembered[number] = outcome
  end
  return outcome
end)
if not answered then
  local kept = call.seq .. (next(remembered) and cmsgpack.pack(remembered) or '')
  local done = redis.pcall('SET', call.lane, kept, 'PX', LANE_TTL)
  if done.err and done.err:find('READONLY', 1, true) then
    return done  -- a replica: none of this was done, and another server may be the one to ask
  end
end
return reply
