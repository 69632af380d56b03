-- purpose: the server's commands as a local of the script, which what counts them can stand in for
-- defines: redis

local redis = redis
