-- What nginx fails at becomes a problem by the plugin error-page, whose bodies are fixed. This gives
-- them their request id, in the same number of bytes: their length has been told by now.
-- PAGES, PARAMETER_TOO_LARGE and CLOSE are written above by `mayfly gateway render`.
return function(conf, ctx)
  local page = PAGES[ngx.status]
  local fixed = ngx.arg[1]
  if not ctx.plugin_error_page_meta or not page or type(fixed) ~= "string" then
    return
  end
  if ngx.status == 413 and ngx.re.find(ngx.var.uri, [[\A/v1/functions/[^/]+/activations\z]], "jo") then
    page = PARAMETER_TOO_LARGE
  end
  local body = page .. (ngx.var.apisix_request_id or "") .. CLOSE
  if #body <= #fixed then
    ngx.arg[1] = body .. string.rep(" ", #fixed - #body)
  end
end
