defmodule BilldogEng.Collector.Page.Assets do
  @moduledoc false
  # The three files of the page, read when this module is compiled: a release needs no file of them, and Mix does not copy
  # them.

  @types %{"index.html" => "text/html", "page.css" => "text/css", "page.js" => "text/javascript"}

  @doc "Returns the type and the content of a file, or nil."
  @spec fetch(String.t()) :: {String.t(), binary} | nil
  def fetch(name)

  for {name, type} <- @types do
    path = Path.join(__DIR__, name)
    @external_resource path
    @content File.read!(path)

    def fetch(unquote(name)), do: {unquote(type) <> "; charset=utf-8", @content}
  end

  def fetch(_name), do: nil
end
