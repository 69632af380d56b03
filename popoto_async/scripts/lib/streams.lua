-- purpose: the streams of models that have one; nothing of them is defined for others
-- defines: streams

local function streams(model)
  if not model.events then
    return nil
  end
  -- include: lib/stream.lua
  return stream
end
