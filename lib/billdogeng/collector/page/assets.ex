defmodule BilldogEng.Collector.Page.Assets do
  @moduledoc false
  # The files of the page, read when this module is compiled: a release needs no file of them, and Mix does not copy them.

  @names ["index.html", "page.css", "page.js", "dom.js", "details.js", "charts.js"]
  @types %{".html" => "text/html", ".css" => "text/css", ".js" => "text/javascript"}

  @doc "Returns the type and the content of a file, or nil."
  @spec fetch(String.t()) :: {String.t(), binary} | nil
  def fetch(name)

  for name <- @names do
    path = Path.join(__DIR__, name)
    @external_resource path
    @content File.read!(path)

    def fetch(unquote(name)), do: {unquote(@types[Path.extname(name)]) <> "; charset=utf-8", @content}
  end

  def fetch(_name), do: nil
end
