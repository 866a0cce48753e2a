-- What nginx refuses before APISIX sees it: a request that is none, a head too large, a flood.
-- PAGES, CLOSE and RETRY_AFTER are written above by `mayfly gateway render`.
local status = ngx.status
local page = PAGES[status] or PAGES[400]
local id = ngx.var.request_id
local body = page .. id .. CLOSE
ngx.header["Content-Type"] = "application/problem+json"
ngx.header["Retry-After"] = RETRY_AFTER[status]
ngx.header["Allow"] = status == 405 and "GET, HEAD, POST, PUT, DELETE" or nil
ngx.header["Cache-Control"] = "no-store"
ngx.header["Strict-Transport-Security"] = "max-age=31536000"
ngx.header["X-Content-Type-Options"] = "nosniff"
ngx.header["X-Request-Id"] = id
ngx.header["Server"] = "APISIX"
ngx.header["Content-Length"] = #body
ngx.print(body)
