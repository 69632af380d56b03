-- purpose: what an operation that failed comes to: nothing of it remains, and the outcome says why
-- defines: rollback, failure
-- include: lib/undo.lua

-- Takes back a record that stood nowhere. Of what stands in other keys, nothing was the record's.
local function take_back_record(added)
  local model, entries = added.model, added.entries
  redis.pcall('ZREM', model.class, added.key)
  for i = 1, #entries, 3 do
    if not (model.kinds and model.kinds[entries[i]]) then
      redis.pcall('ZREM', model.places[entries[i] + 1] .. entries[i + 1], added.key)
    end
  end
end

local function rollback()
  era = era + 1
  for i = #undo, 1, -1 do
    local inverse = undo[i]
    if type(inverse) == 'function' then
      inverse()
    elseif inverse.entries then
      take_back_record(inverse)
    else
      redis.pcall(unpack(inverse))
    end
    undo[i] = nil
  end
end

-- What a raised error says (a table on newer servers, a text on older ones), and the key to blame for a wrong type.
local function failure(reason)
  local message = type(reason) == 'table' and (reason.err or reason[1]) or tostring(reason)
  local corrupt = message:find('WRONGTYPE', 1, true)
  return {corrupt and 'corrupt' or 'error', message, corrupt and blamed}
end
