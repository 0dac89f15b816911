defmodule BilldogEng.Roots do
  @moduledoc false
  # Which authorities TLS trusts where no `:cacertfile` is given: those that `SSL_CERT_FILE` and `SSL_CERT_DIR`
  # name, else the system's, else those of CAStore, if the app has it.

  alias BilldogEng.{Native, Warning}

  @doc false
  # The file for the native side, nil where the system's will do.
  def cacertfile(host) do
    if https?(host) and Native.load_error() == nil and not Native.has_roots(), do: castore()
  end

  @doc false
  # The same for people.
  def describe(host, given) do
    cond do
      not https?(host) -> "not needed, the host is http"
      given -> "those of :cacertfile, #{given}"
      Native.has_roots() -> named_by_environment() || "the system's"
      path = cacertfile(host) -> "CAStore's, #{path}"
      true -> "none"
    end
  end

  defp named_by_environment do
    Enum.find_value(["SSL_CERT_FILE", "SSL_CERT_DIR"], fn variable ->
      path = System.get_env(variable, "")
      if path != "", do: "those of #{variable}, #{path}"
    end)
  end

  defp https?(host), do: is_binary(host) and host |> String.downcase() |> String.starts_with?("https:")

  # Said at the start: at the first flush nobody looks any more.
  defp castore do
    if Code.ensure_loaded?(CAStore) do
      apply(CAStore, :file_path, [])
    else
      Warning.once(
        :no_roots,
        "this system knows no certificate authorities, so no https ingest can be trusted: " <>
          "apt-get install ca-certificates, or give :cacertfile, or set SSL_CERT_FILE"
      )

      nil
    end
  end
end
