-- purpose: telling errors from other replies of redis.pcall
-- defines: is_error

local function is_error(reply)
  return type(reply) == 'table' and reply.err ~= nil
end
