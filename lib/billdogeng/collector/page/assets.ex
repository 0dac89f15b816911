defmodule BilldogEng.Collector.Page.Assets do
  @moduledoc false
  # The files of the page, read when this module is compiled: a release needs no file of them, and Mix does not copy them.

  @linked ["page.css", "page.js", "dom.js", "details.js", "charts.js"]
  @types %{".html" => "text/html", ".css" => "text/css", ".js" => "text/javascript"}

  @doc "Returns the names of those that the page links."
  @spec linked() :: [String.t()]
  def linked, do: @linked

  @doc "Returns the type and the content of a file, or nil."
  @spec fetch(String.t()) :: {String.t(), binary} | nil
  def fetch(name)

  for name <- ["index.html" | @linked] do
    path = Path.join(__DIR__, name)
    @external_resource path
    @content File.read!(path)

    def fetch(unquote(name)), do: {unquote(@types[Path.extname(name)]) <> "; charset=utf-8", @content}
  end

  def fetch(_name), do: nil
end
