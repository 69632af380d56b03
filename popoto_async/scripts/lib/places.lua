-- purpose: where the entries of a record stand
-- defines: MEMBER, place

local MEMBER = 'm'

-- Entries are flat: {slot, tail, score, slot, tail, score, …}. Kind and key of the entry at position i: of each slot
-- the model says the key, or beginning of a key, that stands for it, and the kind, unless it holds members.
local function place(model, entries, i)
  local slot = entries[i]
  local kind, key = model.kinds and model.kinds[slot], model.places[slot + 1]
  if kind then
    return kind, key
  end
  return MEMBER, key .. entries[i + 1]
end
