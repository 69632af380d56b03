-- purpose: how long a manifest is at most that stands in its record's hash
-- defines: MANIFEST_INLINE

-- A value above 64 bytes would take the hash out of its compact form (hash-max-listpack-value).
local MANIFEST_INLINE = 64
