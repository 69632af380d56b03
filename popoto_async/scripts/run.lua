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

-- How long a lane's last outcomes are remembered, in s: longer than any call is resent.
local LANE_TTL = '3600'
-- Digits of a sequence number, so that two compare as texts.
local DIGITS = 16

-- A sequence that was answered gets the same answers; an earlier one comes too late. Remembered are the outcomes of
-- writes that are not the usual one, by the number of the operation.
local stored, known_slots = unpack(redis.call('MGET', lane, models[1].slots))
local answered
if stored then
  local last = stored:sub(1, DIGITS)
  if last > seq then
    return {'refused'}
  elseif last == seq then
    answered = #stored > DIGITS and cmsgpack.unpack(stored:sub(DIGITS + 1)) or {}
  end
elseif resend then
  return {'unknown'}
end

-- A model is made ready once in a call: its slots compared, what is due of it swept.
local function make_ready(model)
  model.ready = true
  -- Before the first operation, which is about the first model, the slots are as they were read with the lane's memory.
  model.refusal = slots_differ(model, #reply == 2 and model == models[1] and known_slots)
  local plain = redis.call('EXISTS', model.exp, model.man, model.alias) == 0
  bare[model.class] = plain
  model.due = not plain and not model.refusal and has_due(model, call.now) and
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

-- A transaction is refused as a whole, and says for which of its operations.
local function outcome_of(op, model)
  local outcome = refusal(model) or (model.due and op.reads and {'due'})
  if op.ops then
    for i, step in ipairs(op.ops) do
      local refused = refusal(models[step.m or 1])
      outcome = outcome or (refused and {'failed', i, refused})
    end
  end
  return outcome or run_operation(op, model)
end

-- An operation that is the same for several records names them in `each`; of its values, `width` belong to each of them.
local remembered
for i = 1, #ops do
  local op = ops[i]
  local model, each = models[op.m or 1], op.each
  op.at = op.at or 2
  for j = 1, each and #each or 1 do
    op.key = each and each[j] or op.key
    local number = #reply - 1
    local outcome = answered and not op.reads and (answered[number] or DONE) or outcome_of(op, model)
    if outcome ~= DONE and not op.reads then
      remembered = remembered or {}
      remembered[number] = outcome
    end
    reply[number + 2] = outcome
    op.at = op.at + (op.width or 0)
  end
end
if not answered then
  local kept = seq .. (remembered and cmsgpack.pack(remembered) or '')
  local done = redis.pcall('SETEX', lane, LANE_TTL, kept)
  if done.err and done.err:find('READONLY', 1, true) then
    return done  -- a replica: none of this was done, and another server may be the one to ask
  end
end
return reply
