defmodule BilldogEng.Client.Roots do
  @moduledoc false
  # Chooses the certificate authorities that TLS trusts without a `:cacertfile`: those of `SSL_CERT_FILE` and
  # `SSL_CERT_DIR`, else the system's, else those of CAStore if the app has it.

  alias BilldogEng.Client.Native
  alias BilldogEng.Log.Writer

  # Returns the file for the native library, or nil if that library finds authorities by itself.
  def cacertfile(host) do
    if https?(host) and Native.load_error() == nil do
      found? = Native.has_roots()
      for {variable, path, 0} <- Native.named_roots(), do: warn_of_named(variable, path, found?)
      unless found?, do: castore()
    end
  end

  # Describes the authorities for `mix billdogeng.send_test_event`.
  def describe(host, given) do
    cond do
      not https?(host) -> "not needed, the host is http"
      given -> "those of :cacertfile, #{given}"
      Native.has_roots() -> describe_named(Native.named_roots())
      path = cacertfile(host) -> "CAStore's, #{path}"
      true -> Enum.join(["none" | for({_, _, 0} = empty <- Native.named_roots(), do: has_none(empty))], "; ")
    end
  end

  def describe_named([]), do: "the system's"

  def describe_named(named) do
    {empty, full} = Enum.split_with(named, &match?({_, _, 0}, &1))

    (for({variable, path, _} <- full, do: "those of #{variable}, #{path}") ++ Enum.map(empty, &has_none/1))
    |> Enum.join("; ")
  end

  defp has_none({variable, path, 0}), do: "#{variable}, #{path}, has none"

  defp https?(host), do: is_binary(host) and host |> String.downcase() |> String.starts_with?("https:")

  # This is logged at the start, when somebody still reads the log, and not at the first flush.
  defp warn_of_named(variable, path, found?) do
    Writer.once({:named_roots, variable}, {:roots_unreadable, variable, path, found?})
  end

  defp castore do
    if Code.ensure_loaded?(CAStore) do
      apply(CAStore, :file_path, [])
    else
      if Native.named_roots() == [] do
        Writer.once(:no_roots, :no_roots)
      end

      nil
    end
  end
end
