// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.ig;

import bd.gov.dghs.fhir.hapi.SettingException;
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.GZIPInputStream;
import org.apache.commons.compress.archivers.tar.TarArchiveEntry;
import org.apache.commons.compress.archivers.tar.TarArchiveInputStream;

/** What a FHIR NPM package says about itself and about the implementation guide that it carries. */
public record IgPackage(
        String name, String version, String canonical, List<String> fhirVersions, String guideUrl) {

    private static final String FHIR_R4 = "4.0";
    private static final ObjectMapper JSON = new ObjectMapper();

    /** The canonical of the guide in the form that a CapabilityStatement uses. */
    public String guideCanonical() {
        return guideUrl + "|" + version;
    }

    /**
     * Reads the package in one pass.
     *
     * @param origin how messages call the package
     * @throws SettingException if it is no package, or not one of a guide for R4
     */
    public static IgPackage read(InputStream tgz, String origin) {
        JsonNode manifest = null;
        List<JsonNode> guides = new ArrayList<>();
        try (TarArchiveInputStream tar = new TarArchiveInputStream(new GZIPInputStream(tgz))) {
            for (TarArchiveEntry entry = tar.getNextTarEntry(); entry != null; entry = tar.getNextTarEntry()) {
                String file = fileInPackageFolder(entry);
                if (file == null) {
                    continue;
                }
                byte[] content = tar.readAllBytes();
                if (file.equals("package.json")) {
                    manifest = parse(content, origin, entry.getName());
                } else if (isGuide(content)) {
                    guides.add(parse(content, origin, entry.getName()));
                }
            }
        } catch (IOException e) {
            throw new SettingException(origin + " is not a readable .tgz: " + e.getMessage(), e);
        }
        if (manifest == null) {
            throw new SettingException(origin + " holds no package/package.json: it is not a FHIR NPM package.");
        }
        return of(manifest, guides, origin);
    }

    private static IgPackage of(JsonNode manifest, List<JsonNode> guides, String origin) {
        String name = required(manifest, "name", origin);
        String version = required(manifest, "version", origin);
        String canonical = required(manifest, "canonical", origin);
        List<String> fhirVersions = new ArrayList<>();
        manifest.path("fhirVersions").forEach(node -> fhirVersions.add(node.asText()));
        if (fhirVersions.stream().noneMatch(v -> v.equals(FHIR_R4) || v.startsWith(FHIR_R4 + "."))) {
            throw new SettingException(origin + " is for FHIR " + fhirVersions + " by its fhirVersions,"
                    + " and this server is R4 (4.0.x).");
        }
        if (guides.size() != 1) {
            throw new SettingException(
                    origin + " holds " + guides.size() + " ImplementationGuide resources; exactly one is expected.");
        }
        JsonNode guide = guides.get(0);
        String url = guide.path("url").asText("");
        if (url.isBlank()) {
            throw new SettingException("The ImplementationGuide in " + origin + " has no url.");
        }
        String guideVersion = guide.path("version").asText(version);
        if (!guideVersion.equals(version)) {
            throw new SettingException(origin + " contradicts itself: package.json says version " + version
                    + ", its ImplementationGuide " + guideVersion + ".");
        }
        return new IgPackage(name, version, canonical, List.copyOf(fhirVersions), url);
    }

    private static String fileInPackageFolder(TarArchiveEntry entry) {
        // Some tools write "./package/…".
        String path = entry.getName().startsWith("./") ? entry.getName().substring(2) : entry.getName();
        String prefix = "package/";
        if (!entry.isFile() || !path.startsWith(prefix) || !path.endsWith(".json")) {
            return null;
        }
        String file = path.substring(prefix.length());
        // Deeper folders hold examples and other material that does not describe the package.
        return file.indexOf('/') < 0 ? file : null;
    }

    /**
     * Looks for the top-level resourceType without building the document: value sets in a national
     * package are megabytes, and almost always the answer is in the first line.
     */
    private static boolean isGuide(byte[] content) {
        try (JsonParser parser = new JsonFactory().createParser(content)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                return false;
            }
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                boolean found = parser.currentName().equals("resourceType");
                parser.nextToken();
                if (found) {
                    return parser.getText().equals("ImplementationGuide");
                }
                parser.skipChildren();
            }
            return false;
        } catch (IOException e) {
            // Files such as the package's own index are not ours to judge.
            return false;
        }
    }

    private static JsonNode parse(byte[] content, String origin, String entry) {
        try {
            return JSON.readTree(content);
        } catch (IOException e) {
            throw new SettingException(entry + " in " + origin + " is not valid JSON: " + e.getMessage(), e);
        }
    }

    private static String required(JsonNode manifest, String field, String origin) {
        String value = manifest.path(field).asText("");
        if (value.isBlank()) {
            throw new SettingException("package.json in " + origin + " has no " + field + ".");
        }
        return value;
    }
}
