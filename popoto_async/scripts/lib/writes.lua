-- purpose: writes that can be taken back
-- defines: run, write
-- include: lib/undo.lua

-- Runs a command on an index key; if it fails, that key is to blame.
local function run(command, key, ...)
  blamed = key
  return redis.call(command, key, ...)
end

-- Runs a command and remembers its inverse, given as a table of arguments, or as a function where there are several.
local function write(inverse, ...)
  local reply = run(...)
  undo[#undo + 1] = inverse
  return reply
end
