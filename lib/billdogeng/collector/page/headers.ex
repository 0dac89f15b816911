defmodule BilldogEng.Collector.Page.Headers do
  @moduledoc false
  # The headers of every response of the page.

  # No inline script or style, nothing from elsewhere, in no frame.
  @security [
    {"content-security-policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " <>
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"x-content-type-options", "nosniff"},
    {"referrer-policy", "no-referrer"},
    {"cross-origin-resource-policy", "same-origin"},
    {"cross-origin-opener-policy", "same-origin"},
    {"cache-control", "no-store"}
  ]

  @doc "Returns the headers."
  @spec security() :: [{String.t(), String.t()}]
  def security, do: @security
end
